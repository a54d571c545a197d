// One small repair of what the theme makes of a page. The book reads well without it.
document.addEventListener("DOMContentLoaded", () => {
  // Printed text that scrolls sideways can be reached with the keyboard.
  for (const block of document.querySelectorAll(".bd-article pre")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
});

// Two small repairs of what the theme makes of a page. The book reads well without them.
document.addEventListener("DOMContentLoaded", () => {
  // A block quote that begins with a bold word becomes a box of that kind: **Predict.** -> class "box-predict".
  for (const quote of document.querySelectorAll(".bd-article blockquote")) {
    const first = quote.querySelector(":scope > p:first-of-type > strong:first-child");
    if (!first || first.previousSibling?.textContent.trim()) continue;
    const kind = first.textContent.trim().replace(/[.:]$/, "").toLowerCase().replace(/[^a-z]+/g, "-");
    quote.classList.add("box", `box-${kind}`);
  }
  // Printed text that scrolls sideways can be reached with the keyboard.
  for (const block of document.querySelectorAll(".bd-article pre")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
});

"""Each chapter's exercises and questions, one module per chapter: `EXERCISES` and `QUESTIONS`."""

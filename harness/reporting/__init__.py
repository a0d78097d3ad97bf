"""Table, Markdown, HTML, and the experiment log."""

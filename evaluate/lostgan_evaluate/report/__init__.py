"""Reports: results as one static page, and as Markdown."""

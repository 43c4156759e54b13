"""The layout editor: a page in the browser, and the server in front of a runner that generates its pictures."""

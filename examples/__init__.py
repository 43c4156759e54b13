"""Layouts to begin with, as package data. `lostgan_serve.editor` finds them."""

"""HTTP servers with limits, for the editor and for the gateway."""

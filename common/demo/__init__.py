"""A page in the browser for either model, served to this machine only."""

"""Code IR and templates that write a compiled model out as source."""

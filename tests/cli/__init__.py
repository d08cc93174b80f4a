"""The commands of `eca-multi`, their output and their exit statuses."""

"""The HTTP server and the command line. Uses only names that `tsengine` exports."""

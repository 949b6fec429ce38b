"""One thin file a command: parse, call the library, print."""

"""Wire protocols: codecs over the core's commands and notices."""

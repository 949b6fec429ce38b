"""The Natural Scenes Dataset on disk (paper, section 2.1). Only ever read."""

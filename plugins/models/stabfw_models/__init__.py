"""Built-in models, one folder each, registered like any third party's."""

"""Built-in accelerators, one folder each, registered like any third party's."""

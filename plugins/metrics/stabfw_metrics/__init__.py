"""Built-in metrics, one folder each, registered like any third party's."""

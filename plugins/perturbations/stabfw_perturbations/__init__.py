"""Built-in perturbations, one folder each, registered like any third party's."""

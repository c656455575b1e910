"""YAML files as strict dataclasses: ``schema`` holds the fields, ``load`` reads files into them. No torch here."""

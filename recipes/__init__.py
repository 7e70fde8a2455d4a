"""Recipes: YAML files, `posttrain train NAME` finds them here."""

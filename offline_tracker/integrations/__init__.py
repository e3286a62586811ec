"""Hooks for trainers that have a plug-in interface of their own."""

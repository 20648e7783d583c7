"""Runs the examples of the documentation, and of the README, as they are printed.

A page's code runs in a process of its own (`python -m _pages PAGE`), in a folder that holds the files that the pages
name. The names in it, such as `api.example.com`, are those of real servers on loopback, reached through a proxy.
"""

"""The label formats of annotation tools and data sets, a module each.

Each has a `NAME`, what it `LOOKS_FOR`, `detect(folder)`, which tells by what the folder was recognised, or None, and
`read(folder)`, which gives images, labels, classes and splits. Reading a folder is `catalog.read_labelled_folder`.
"""

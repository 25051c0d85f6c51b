"""Where images and labels come from: folders, tables and Hub data sets, and the formats of label files.

Nothing is exported here: to read an image (`image_files`) or to list a folder (`folder`) need not load `datasets`.
"""

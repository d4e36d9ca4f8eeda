"""Any task over a million photos, in this process or on the machines of a Ray cluster.

The path of a photo: `items` lists where the photos are and puts the list on the disk in chunks; `worker` takes one
chunk after the other through the task; `sinks` say what is kept; `manifest` makes a chunk done as a whole or not at
all; `cluster` spreads the chunks over Ray; `run` is the whole.
"""

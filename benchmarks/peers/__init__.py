"""What takes part in the comparisons: a script for each library, run in an environment of its own.

Nothing here imports clearloop but `ours`, and nothing but torch and safetensors is shared.
"""

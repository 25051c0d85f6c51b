"""The tables and figures of the paper, and two more, computed anew with one command each.

"The paper" is "Learning to Prompt Segment Anything Models", https://arxiv.org/abs/2401.04651.
"""

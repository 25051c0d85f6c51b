"""ssprompt_hf: adapt promptable segmentation models with learned spatial and semantic prompts."""

"""Text to image: what Stable Diffusion runs, at a quarter of its width or less."""

from zoo.row import Row

UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [64, 128, 256],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 128,
    "attention_head_dim": 8,
    "layers_per_block": 2,
}
DECODER = {
    "block_out_channels": [32, 64, 128, 128],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
}

ROWS = (
    Row(
        "unet",
        "generative",
        "diffusers UNet2DConditionModel, three stages of 64 to 256 channels, two of them with cross-attention",
        "zoo.generative.write:unet",
        {"size": 16, **UNET},
        {"sample": (2, 3), "encoder_hidden_states": (1,)},
    ),
    Row(
        "vae-decoder",
        "generative",
        "the decoder of diffusers' AutoencoderKL, four stages of 32 to 128 channels",
        "zoo.generative.write:decoder",
        {"size": 8, **DECODER},
        {"latents": (2, 3)},
    ),
)

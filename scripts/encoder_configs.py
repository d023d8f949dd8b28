"""Writes conf/encoder/: one file for each current SMP encoder, and `timm` for any other.

python scripts/encoder_configs.py

"""

from pathlib import Path

from segmentation_models_pytorch.encoders import encoders

ENCODER_DIR = Path(__file__).parents[1] / "conf" / "encoder"


def render() -> dict[str, str]:
    """File name → text of every encoder option."""
    texts = {
        "timm.yaml": "# Any timm model: encoder=timm encoder.name=tu-…\nname: ???\nweights: ${data.encoder_weights}\n"
    }
    for name, entry in encoders.items():
        weights = ", ".join(entry["pretrained_settings"])
        texts[f"{name}.yaml"] = f"# Weights: {weights}\nname: {name}\nweights: ${{data.encoder_weights}}\n"
    return texts


if __name__ == "__main__":
    ENCODER_DIR.mkdir(parents=True, exist_ok=True)
    for path in ENCODER_DIR.glob("*.yaml"):
        path.unlink()
    for file_name, text in render().items():
        (ENCODER_DIR / file_name).write_text(text)

"""Networks for pictures: what classified ImageNet from 2012 on, hand-made and found by search.

Where the size is free, pictures are smaller than those that the network was made for: the graph is the same.
"""

from zoo.row import BACK, TARGETS, Row

SIZE = {"image": (2, 3)}
"""Height and width are free."""


def _timm(name: str, model: str, about: str, size: int = 128, **row: object) -> Row:
    args = {"model": model, "size": size}
    return Row(
        name,
        "vision",
        f"{about}, timm {model}, {size} pixels",
        "zoo.vision.write:timm",
        args,
        **{"free": SIZE, "targets": BACK, **row},
    )


ROWS = (
    Row(
        "mlp",
        "vision",
        "the seed's MLP, trained on digits",
        "zoo.vision.write:digits",
        targets=(*TARGETS, "tensorflow"),
        small=True,
    ),
    Row(
        "alexnet",
        "vision",
        "AlexNet as in its paper, 227 pixels",
        "zoo.vision.write:paper",
        {"model": "alexnet", "size": 227},
        targets=BACK,
    ),
    Row(
        "googlenet",
        "vision",
        "GoogLeNet as in its paper, auxiliary heads included, 128 pixels",
        "zoo.vision.write:paper",
        {"model": "googlenet", "size": 128},
        SIZE,
        BACK,
    ),
    _timm("inception-v3", "inception_v3", "Inception v3", 160),
    _timm("resnet-18", "resnet18", "ResNet-18", targets=(*BACK, "tensorflow")),
    _timm("resnet-50", "resnet50", "ResNet-50"),
    _timm("densenet-121", "densenet121", "DenseNet-121"),
    _timm("efficientnet-b0", "efficientnet_b0", "EfficientNet-B0"),
    _timm("mobilenet-v3", "mobilenetv3_large_100", "MobileNetV3 large"),
    _timm("nasnet", "nasnetalarge", "NASNet-A large", 160),
    _timm("pnasnet", "pnasnet5large", "PNASNet-5 large", 160),
    _timm("single-path-nas", "spnasnet_100", "single-path NAS"),
    _timm("mnasnet", "mnasnet_100", "MNASNet"),
    _timm("vit", "vit_small_patch16_224", "ViT-S/16", 224, free={}, targets=TARGETS),
)

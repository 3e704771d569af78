"""The list of the zoo's models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ZooEntry:
    """One model of the zoo.

    Attributes:
        name: its name in the zoo.
        task: kind of output.
        params: parameters as papers count them (without running statistics).
        macs: multiply-adds of one inference in convolutions, dense layers and matrix products.
        description: one line for lists.
        trained: whether its weights are trained; random otherwise.
        source: `module:function` in `edgec.models.zoo`.
    """

    name: str
    task: str
    params: int
    macs: int
    description: str
    trained: bool
    source: str


CLASSIFIERS = (
    ("resnet18", 11_689_512, 1_814_073_344, "resnet:resnet18", "ResNet-18, 224×224"),
    ("resnet50", 25_557_032, 4_089_184_256, "resnet:resnet50", "ResNet-50, 224×224"),
    ("mobilenetv1", 4_231_976, 568_740_352, "mobilenet:mobilenetv1", "MobileNetV1 1.0, 224×224"),
    ("mobilenetv2", 3_504_872, 300_774_272, "mobilenet:mobilenetv2", "MobileNetV2 1.0, 224×224"),
    ("mobilenetv3-large", 5_483_032, 216_589_760, "mobilenetv3:large", "MobileNetV3-Large, 224×224"),
    ("mobilenetv3-small", 2_542_856, 56_510_400, "mobilenetv3:small", "MobileNetV3-Small, 224×224"),
    ("squeezenet1.1", 1_235_496, 349_151_936, "squeezenet:squeezenet", "SqueezeNet 1.1, 224×224"),
    ("shufflenetv2-1.0", 2_278_604, 144_907_992, "shufflenet:shufflenetv2", "ShuffleNetV2 1.0, 224×224"),
    ("efficientnet-lite0", 4_652_008, 385_187_552, "efficientnet:lite0", "EfficientNet-Lite0, 224×224"),
    ("densenet121", 7_978_856, 2_834_161_664, "densenet:densenet121", "DenseNet-121, 224×224"),
    ("inception-v3", 23_834_568, 5_713_216_096, "inception:inception_v3", "Inception-v3, 299×299"),
    ("vit-tiny", 5_717_416, 1_253_683_200, "transformer:vit_tiny", "ViT-Ti/16, 224×224"),
)
OTHERS = (
    ("ssdlite-mobilenetv3", "detection", 3_440_060, 583_171_904, "ssd:ssdlite_mobilenetv3",
     "SSDLite on MobileNetV3-Large, 320×320"),
    ("yolov8n-640", "detection", 3_157_200, 4_371_993_600, "yolo:at_640", "YOLOv8n-like detector, 640×640"),
    ("yolov8n-320", "detection", 3_157_200, 1_092_998_400, "yolo:at_320", "YOLOv8n-like detector, 320×320"),
    ("unet", "segmentation", 7_763_041, 12_071_206_912, "unet:unet", "U-Net of width 32, 256×256"),
    ("ds-cnn", "keyword", 23_756, 2_656_768, "ds_cnn:ds_cnn", "DS-CNN keyword spotter, 49×10 MFCC"),
    ("bert-mini", "text", 11_170_560, 436_273_152, "transformer:bert_mini", "BERT of 4 layers, 128 tokens"),
)  # fmt: skip

TRAINED = (
    ("shapes-v1", "detection", 409_486, 101_984_256, "shapes:detector", "finds shapes by day, 256×192"),
    ("shapes-v2", "detection", 409_486, 101_984_256, "shapes:detector", "the same, also in dim light"),
    ("keywords-digits", "keyword", 28_412, 1_791_360, "sound:keywords", "hears the ten spoken digits"),
    ("sound-events", "sound", 27_764, 2_864_960, "sound:events", "alarm, glass, knocks, speech"),
)

ENTRIES: tuple[ZooEntry, ...] = (
    *(ZooEntry(n, t, p, m, d, True, s) for n, t, p, m, s, d in TRAINED),
    *(ZooEntry(n, "classification", p, m, d, False, s) for n, p, m, s, d in CLASSIFIERS),
    *(ZooEntry(n, t, p, m, d, False, s) for n, t, p, m, s, d in OTHERS),
)

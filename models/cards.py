"""Model cards of the zoo's architectures, which `build` writes beside the model.

The trained models have card files of their own, with measured accuracies; these cards only declare preprocessing and
the meaning of the outputs.
"""

from __future__ import annotations

import math

IMAGENET = ("[123.675, 116.28, 103.53]", "[0.0171248, 0.0175070, 0.0174292]")
CENTRED = ("127.5", "0.00784314")  # mean and scale that map pixels to -1 to 1
KEYWORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_")


def _head(name: str) -> str:
    note = "Standard architecture with random weights: for speed."
    return f'name = "{name}"\nversion = "1"\ndescription = "{note}"\n'


def _image(width: int, mean: str, scale: str, resize: str = "stretch") -> str:
    pad = "pad = 114\n" if resize == "letterbox" else ""
    return (
        f'[input]\nkind = "image"\nwidth = {width}\nheight = {width}\ncolour = "rgb"\nresize = "{resize}"\n'
        f"{pad}mean = {mean}\nscale = {scale}\n"
    )


def _classifier(name: str, size: int, mean: str, scale: str) -> str:
    output = '[output]\ndecoder = "classification"\nactivation = "softmax"\ntop_k = 5\n'
    return "\n".join((_head(name), _image(size, mean, scale, "crop"), output))


def _ssd_anchors() -> str:
    """Default boxes of torchvision's SSDLite: scales 0.2 to 0.95 over six maps, aspect ratios 1, 2 and 3."""
    scales = [0.2 + 0.15 * k for k in range(6)] + [1.0]
    layers = []
    for k, cells in enumerate((20, 10, 5, 3, 2, 1)):
        between = math.sqrt(scales[k] * scales[k + 1])
        sizes = [(scales[k], scales[k]), (between, between)]
        for ratio in (2, 3):
            wide, high = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
            sizes += [(wide, high), (high, wide)]
        boxes = ", ".join(f"[{min(w, 1):.6g}, {min(h, 1):.6g}]" for w, h in sizes)
        layers.append(f"[[output.anchors]]\nrows = {cells}\ncolumns = {cells}\nsizes = [{boxes}]\n")
    return "\n".join(layers)


def _ssd(name: str) -> str:
    output = (
        '[output]\ndecoder = "ssd"\nscores = "scores"\nboxes = "boxes"\nactivation = "none"\n'
        "variances = [0.1, 0.1, 0.2, 0.2]\nnms_threshold = 0.55\n"
    )
    return "\n".join((_head(name), _image(320, *CENTRED), output, _ssd_anchors()))


def _yolo(name: str, size: int) -> str:
    output = '[output]\ndecoder = "yolov8"\nscore_threshold = 0.25\nnms_threshold = 0.45\n'
    return "\n".join((_head(name), _image(size, "0.0", "0.00392157", "letterbox"), output))


def _unet(name: str) -> str:
    output = '[output]\ndecoder = "segmentation"\nactivation = "none"\nthreshold = 0.5\n'
    return "\n".join((_head(name), _image(256, *CENTRED), output))


def _ds_cnn(name: str) -> str:
    words = ", ".join(f'"{word}"' for word in KEYWORDS)
    sound = (
        '[input]\nkind = "audio"\nsample_rate = 16000\nwindow_s = 1.0\nhop_s = 0.25\nfeatures = "mfcc"\n'
        "frame_s = 0.040\nstep_s = 0.020\nmels = 40\ncoefficients = 10\nmin_hz = 20.0\nmax_hz = 4000.0\n"
    )
    output = '[output]\ndecoder = "keyword"\nactivation = "none"\nignore = ["_silence_", "_unknown_"]\n'
    return "\n".join((_head(name) + f"labels = [{words}]\n", sound, output))


def card_text(name: str, task: str) -> str | None:
    """The card of an architecture as TOML, or None for a model on plain tensors."""
    if task == "classification":
        if name == "vit-tiny":
            return _classifier(name, 224, *CENTRED)
        return _classifier(name, 299 if name == "inception-v3" else 224, *IMAGENET)
    if name.startswith("yolov8n"):
        return _yolo(name, int(name.rpartition("-")[2]))
    makers = {"ssdlite-mobilenetv3": _ssd, "unet": _unet, "ds-cnn": _ds_cnn}
    return makers[name](name) if name in makers else None

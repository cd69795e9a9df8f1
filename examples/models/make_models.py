"""Train the two example models, and write them and the data of the example batch job.

Needs scikit-learn, skl2onnx and onnxruntime:

    python examples/models/make_models.py

Both models take ``measurements`` (FP32, [-1, 4]: sepal length and width, petal length and width, in
centimetres) and give ``label`` (INT64, [-1]) and ``probabilities`` (FP32, [-1, 3]). The same versions of the
packages write the same bytes again.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def main() -> None:
    """Train, write and check both versions."""
    measurements, species = load_iris(return_X_y=True)
    measurements = measurements.astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        measurements, species, test_size=0.3, random_state=7, stratify=species
    )
    versions = {
        "iris-v1": LogisticRegression(max_iter=1000),
        "iris-v2": RandomForestClassifier(n_estimators=25, max_depth=4, random_state=7),
    }
    for name, model in versions.items():
        model.fit(train_x, train_y)
        path = HERE / f"{name}.onnx"
        path.write_bytes(as_onnx(name, model))
        labels = onnxruntime.InferenceSession(path).run(["label"], {"measurements": test_x})[0]
        assert (labels == model.predict(test_x)).all(), f"{path.name} differs from its scikit-learn model"
        accuracy = float((labels == test_y).mean())
        print(f"{path.name}: {path.stat().st_size} bytes, accuracy {accuracy:.3f} on {len(test_y)} flowers")
    write_data(HERE.parent / "data" / "iris.csv", measurements)


def as_onnx(name: str, model: Any) -> bytes:
    """Return the model in the ONNX format, named so that equal models are equal bytes."""
    onnx_model = convert_sklearn(
        model,
        name=name,
        initial_types=[("measurements", FloatTensorType([None, 4]))],
        options={id(model): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    return bytes(onnx_model.SerializeToString(deterministic=True))


def write_data(path: Path, measurements: np.ndarray) -> None:
    """Write the measurements of all flowers, without their species, as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{value:.1f}" for value in row] for row in measurements)


if __name__ == "__main__":
    main()

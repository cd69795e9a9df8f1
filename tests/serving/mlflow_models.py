"""Small MLflow models of the flavours that users have, each saved with MLflow's own functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

COLUMNS = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]

# Models from code: MLflow runs the file, and needs no pickle.
_CODE = {
    "code": """
        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                import helper_of_the_model

                return model_input.sum(axis=1) * helper_of_the_model.factor(params)
        """,
    "type_hints": """
        class Question(pydantic.BaseModel):
            text: str
            limit: int | None = None

        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, model_input: list[Question]) -> list[str]:
                return [question.text[: question.limit] for question in model_input]
        """,
    "chat": """
        from mlflow.types.llm import ChatChoice, ChatCompletionResponse, ChatMessage

        class Model(mlflow.pyfunc.ChatModel):
            def predict(self, context, messages, params):
                answer = ChatMessage(role="assistant", content=messages[-1].content.upper())
                return ChatCompletionResponse(choices=[ChatChoice(message=answer)], created=0)
        """,
    "tensors": """
        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return {name: array * 2 for name, array in model_input.items()}
        """,
    "fickle": """
        class Model(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                what = model_input["do"].iloc[0]
                if what == "fail":
                    raise KeyError("/secret/path")
                return {"do": object()} if what == "return an object" else [float("nan"), None, what]
        """,
}


def _iris() -> tuple[Any, Any]:
    from sklearn.datasets import load_iris

    return load_iris(return_X_y=True, as_frame=True)  # type: ignore[no-any-return]


def _signature(outputs: Any = None, params: dict[str, Any] | None = None) -> Any:
    from mlflow.models import infer_signature

    measurements, species = _iris()
    return infer_signature(measurements, species if outputs is None else outputs, params=params)


def _scikit_learn(path: Path) -> None:
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(*_iris())
    mlflow.sklearn.save_model(model, path, signature=_signature(), pip_requirements=["scikit-learn"])


def _unsigned(path: Path) -> None:
    import mlflow.sklearn
    from sklearn.tree import DecisionTreeClassifier

    measurements, species = _iris()
    model = DecisionTreeClassifier().fit(measurements.to_numpy(), species)
    mlflow.sklearn.save_model(
        model, path, pip_requirements=["scikit-learn"], serialization_format="cloudpickle"
    )


def _xgboost(path: Path) -> None:
    import mlflow.xgboost
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(*_iris())
    mlflow.xgboost.save_model(model, path, signature=_signature(), pip_requirements=["xgboost"])


def _lightgbm(path: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1).fit(*_iris())
    mlflow.lightgbm.save_model(model, path, signature=_signature(), pip_requirements=["lightgbm"])


def _onnx(path: Path) -> None:
    import mlflow.onnx
    from onnx import TensorProto, helper

    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, [None, 1])
    node = helper.make_node("ReduceSum", ["x", "axes"], ["total"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph([node], "graph", [tensor], [total], initializer=[axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    mlflow.onnx.save_model(
        model, path, pip_requirements=["onnx"], onnx_execution_providers=["CPUExecutionProvider"]
    )


def _from_code(name: str, path: Path, **options: Any) -> None:
    import textwrap

    import mlflow.pyfunc

    source = path.with_suffix(".py")
    imports = "import mlflow, pydantic\n"
    source.write_text(f"{imports}{textwrap.dedent(_CODE[name])}\nmlflow.models.set_model(Model())\n")
    mlflow.pyfunc.save_model(path, python_model=str(source), pip_requirements=["mlflow"], **options)


def _code(path: Path) -> None:
    helper = path.with_name("helper_of_the_model.py")
    helper.write_text("def factor(params):\n    return params['factor'] if params else 1.0\n")
    signature = _signature(_iris()[1].astype(float), {"factor": 1.0})
    _from_code("code", path, code_paths=[str(helper)], signature=signature)


def _tensors(path: Path) -> None:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    inputs = [TensorSpec(np.dtype("float32"), (-1, 2), "a"), TensorSpec(np.dtype("int64"), (-1,), "b")]
    _from_code("tensors", path, signature=ModelSignature(Schema(inputs)))


MODELS: dict[str, Callable[[Path], None]] = {
    "scikit-learn": _scikit_learn,
    "unsigned": _unsigned,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "onnx": _onnx,
    "code": _code,
    "type_hints": lambda path: _from_code("type_hints", path),
    "chat": lambda path: _from_code("chat", path),
    "tensors": _tensors,
    "fickle": lambda path: _from_code("fickle", path),
}

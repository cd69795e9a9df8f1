"""The HTTP side of the model server."""

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

from deployledger.serving.inference_protocol import InvalidRequestError, infer, model_metadata
from deployledger.serving.onnx_model import OnnxModel, PredictionFailedError


def make_app(name: str, version: str, model: OnnxModel) -> FastAPI:
    """Return the application that serves one version of one model."""
    app = FastAPI(title="deployledger ONNX server", openapi_url=None)

    def check(given_name: str, given_version: str | None) -> None:
        if given_name != name:
            raise HTTPException(404, f"there is no model {given_name!r} here; there is {name!r}")
        if given_version not in (None, version):
            raise HTTPException(
                404, f"there is no version {given_version!r} of {name!r}; there is {version!r}"
            )

    @app.exception_handler(StarletteHTTPException)
    async def say_why(request: Request, error: StarletteHTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(InvalidRequestError)
    async def refuse(request: Request, error: InvalidRequestError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(PredictionFailedError)
    async def fail(request: Request, error: PredictionFailedError) -> Response:
        return JSONResponse({"error": str(error)}, 400 if error.is_input_invalid else 500)

    @app.get("/ping", response_model=None)
    async def ping() -> Response:
        return Response()

    @app.get("/v2", response_model=None)
    async def server() -> Response:
        return JSONResponse({"name": "deployledger-onnx", "version": version, "extensions": []})

    @app.get("/v2/health/live", response_model=None)
    async def live() -> Response:
        return JSONResponse({"live": True})

    @app.get("/v2/health/ready", response_model=None)
    async def ready() -> Response:
        return JSONResponse({"ready": True})

    @app.get("/v2/models/{given_name}", response_model=None)
    @app.get("/v2/models/{given_name}/versions/{given_version}", response_model=None)
    async def metadata(given_name: str, given_version: str | None = None) -> Response:
        check(given_name, given_version)
        return JSONResponse(model_metadata(name, version, model))

    @app.get("/v2/models/{given_name}/ready", response_model=None)
    @app.get("/v2/models/{given_name}/versions/{given_version}/ready", response_model=None)
    async def model_ready(given_name: str, given_version: str | None = None) -> Response:
        check(given_name, given_version)
        return JSONResponse({"name": name, "ready": True})

    @app.post("/v2/models/{given_name}/infer", response_model=None)
    @app.post("/v2/models/{given_name}/versions/{given_version}/infer", response_model=None)
    async def predict(request: Request, given_name: str, given_version: str | None = None) -> Response:
        check(given_name, given_version)
        body = await request.body()
        # In a thread, all of it: neither a big body nor a slow model keeps the health answers waiting.
        try:
            answer = await run_in_threadpool(infer, name, version, model, body)
        except RecursionError:
            raise HTTPException(400, "the body is nested too deeply") from None
        return Response(answer, media_type="application/json")

    return app

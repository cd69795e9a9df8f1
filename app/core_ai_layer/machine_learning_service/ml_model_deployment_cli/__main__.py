"""``python -m core_ai_layer.machine_learning_service.ml_model_deployment_cli`` is ``deployledger``."""

from core_ai_layer.machine_learning_service.ml_model_deployment_cli import main

main()

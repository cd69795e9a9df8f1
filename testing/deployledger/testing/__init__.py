"""For the tests of an application: contract suites for its clients, and a service in memory."""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "contracts.container_registry": ("ContainerRegistryContract",),
        "contracts.model_registry": ("ModelRegistryContract",),
        "contracts.orchestrator": ("OrchestratorContract",),
        "in_memory_clients": ("InMemoryContainerRegistry", "InMemoryModelRegistry", "InMemoryOrchestrator"),
        "service": ("in_memory_service",),
        "faulty_clients": (
            "Fault",
            "Faults",
            "ManualClock",
            "FaultyContainerRegistry",
            "FaultyModelRegistry",
            "FaultyOrchestrator",
        ),
    },
)

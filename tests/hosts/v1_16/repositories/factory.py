from host_factory import DifyAPIRepositoryFactory

__all__ = ["DifyAPIRepositoryFactory"]

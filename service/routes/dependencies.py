"""What routes get from the application."""

from typing import Annotated

from fastapi import Depends, Request

from service.repository import Repository
from service.runtime import Runtime


def _runtime(request: Request) -> Runtime:
    return request.app.state.runtime


def _repository(request: Request) -> Repository:
    return _runtime(request).require_repository()


RuntimeOf = Annotated[Runtime, Depends(_runtime)]
RepositoryOf = Annotated[Repository, Depends(_repository)]

"""What routes get from the application.  Coroutines: plain functions would each cost a thread."""

from typing import Annotated

from fastapi import Depends, Request

from service.repository import Repository
from service.runtime import Runtime


async def runtime_of(request: Request) -> Runtime:
    return request.app.state.runtime


async def repository_of(request: Request) -> Repository:
    """Raises NotReady."""
    return (await runtime_of(request)).require_repository()


RuntimeOf = Annotated[Runtime, Depends(runtime_of)]
RepositoryOf = Annotated[Repository, Depends(repository_of)]

"""The files and batches of a server."""

from collections.abc import Mapping
from urllib.parse import urlencode

from carousel_client._async.transport import AsyncTransport
from carousel_client.request import Request, given, url_path, with_file, with_json
from carousel_client.responses import Batch, BatchPage, FilePage, StoredFile


class AsyncFilesAPI:
    """Upload, read, list and delete the inputs and outputs of batches."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(
        self,
        content: str | bytes,
        name: str,
        *,
        expires_after_s: int | None = None,
        timeout_s: float | None = None,
    ) -> StoredFile:
        """Store the input of a batch: one request in JSON a line; text is sent as UTF-8.

        A lost response is not retried: `list` shows whether the file is there. Without `timeout_s`
        it may take 600 s, or the client's time if that is longer.
        """
        fields = {"purpose": "batch"}
        if expires_after_s is not None:
            fields["expires_after[anchor]"] = "created_at"
            fields["expires_after[seconds]"] = str(expires_after_s)
        body = content.encode() if isinstance(content, str) else content
        request = with_file("/v1/files", fields, name, body)
        timeout_s = timeout_s or self._transport.long_timeout_s
        return await self._transport.execute(request, StoredFile.from_json, timeout_s)

    async def list(self, limit: int = 100, after: str | None = None) -> FilePage:
        """Return a page of the files, the newest first; `after` is `next` of the one before."""
        query = urlencode(given(limit=limit, after=after))
        return await self._transport.execute(
            Request("GET", f"/v1/files?{query}"), FilePage.from_json
        )

    async def get(self, file_id: str) -> StoredFile:
        """Return the facts of a file."""
        request = Request("GET", url_path("v1", "files", file_id))
        return await self._transport.execute(request, StoredFile.from_json)

    async def content(self, file_id: str, timeout_s: float | None = None) -> bytes:
        """Return what is in a file: of a batch's output, one row in JSON a line.

        Without `timeout_s` it may take 600 s, or the client's time if that is longer.
        """
        timeout_s = timeout_s or self._transport.long_timeout_s
        request = Request("GET", url_path("v1", "files", file_id, "content"))
        return await self._transport.send(request, timeout_s)

    async def delete(self, file_id: str) -> None:
        """Delete a file. A batch that reads it goes on."""
        await self._transport.send(Request("DELETE", url_path("v1", "files", file_id)))


class AsyncBatchesAPI:
    """Create, look at, list and cancel batches: files of requests, answered line by line."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        input_file_id: str,
        endpoint: str,
        *,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_expires_after_s: int | None = None,
    ) -> Batch:
        """Begin to answer every line of a stored file with the route `endpoint`.

        A lost response is not retried: `list` shows whether the batch is there.
        """
        expiry = {"anchor": "created_at", "seconds": output_expires_after_s}
        body = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": completion_window,
            "metadata": None if metadata is None else dict(metadata),
            "output_expires_after": None if output_expires_after_s is None else expiry,
        }
        return await self._execute(with_json("POST", "/v1/batches", body, is_repeatable=False))

    async def list(self, limit: int = 20, after: str | None = None) -> BatchPage:
        """Return a page of the batches, the newest first; `after` is `next` of the one before."""
        query = urlencode(given(limit=limit, after=after))
        return await self._transport.execute(
            Request("GET", f"/v1/batches?{query}"), BatchPage.from_json
        )

    async def get(self, batch_id: str) -> Batch:
        """Return a batch; its files are there once it `is_finished`."""
        return await self._execute(Request("GET", url_path("v1", "batches", batch_id)))

    async def cancel(self, batch_id: str) -> Batch:
        """End a batch within seconds; what is answered becomes its files."""
        return await self._execute(Request("POST", url_path("v1", "batches", batch_id, "cancel")))

    async def _execute(self, request: Request) -> Batch:
        return await self._transport.execute(request, Batch.from_json)

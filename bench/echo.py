"""The least a Python daemon can do for a line: an asyncio server that answers each with the same bytes. A yardstick.

python -m bench.echo SOCKET BYTES
"""

from __future__ import annotations

import asyncio
import sys


async def serve(path: str, size: int) -> None:
    """Until it is killed."""
    frame = b'{"result":"%s"}\n'
    answer = frame % (b"x" * (size - len(frame % b"")))

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(converse, path)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))

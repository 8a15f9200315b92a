#!/bin/sh
# Makes what the stack needs to start and nobody else may know, once: what exists stays as it is.
#
#   sh deploy/secrets.sh [DIRECTORY]      (./secrets unless given)
#
# Each secret is hexadecimal, so that it stands in URLs and files as it is. The directory is closed to
# other users; the files in it are readable, because containers read them under users of their own.
set -eu
umask 077

here=$(cd "$(dirname "$0")/.." && pwd)
directory=${1:-$here/secrets}

random() {  # COUNT of random bytes, as hexadecimal digits
    od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'
}

keep() {  # NAME: takes the file's text from standard input, unless the file exists
    path=$directory/$1
    if [ -s "$path" ]; then
        cat >/dev/null
        return
    fi
    cat >"$path.new"
    chmod 644 "$path.new"
    mv "$path.new" "$path"
    echo "made $path"
}

mkdir -p "$directory"
chmod 700 "$directory"

for name in postgres control data valkey s3 milvus; do
    random 24 | keep "${name}_password"
done
printf 'isthmus' | keep s3_user

control=$(cat "$directory/control_password")
data=$(cat "$directory/data_password")
valkey=$(cat "$directory/valkey_password")
user=$(cat "$directory/s3_user")
s3=$(cat "$directory/s3_password")
milvus=$(cat "$directory/milvus_password")

# A cache: it holds nothing that may not be lost, and makes room by itself.
keep valkey.conf <<END
requirepass $valkey
save ""
appendonly no
maxmemory 256mb
maxmemory-policy allkeys-lru
END

keep milvus.yaml <<END
common:
  storageType: local
  security:
    authorizationEnabled: true
    defaultRootPassword: "$milvus"
END

# Isthmus' own configuration; any other setting of docs/settings.md may be added.
keep isthmus.toml <<END
api_key = "sk-$(random 24)"
secret_key = "$(random 32)"
database_url = "postgresql://isthmus:$control@postgres:5432/isthmus"
data_url = "postgresql://isthmus_data:$data@postgres:5432/isthmus_data"
redis_url = "redis://:$valkey@valkey:6379/0"
objects_url = "s3://$user:$s3@s3:9000/isthmus-objects?secure=false"
vectors_url = "milvus://root:$milvus@milvus:19530"
END

# The OpenAI face knows models and the control database; of the data it holds no credentials, nor the
# secret that tenants' SQL passwords derive from. An older facade.toml holds that one, and works on.
if [ ! -s "$directory/facade.toml" ]; then
    if ! grep -q '^pass_key = ' "$directory/isthmus.toml"; then
        { printf 'pass_key = "%s"\n' "$(random 32)"; cat "$directory/isthmus.toml"; } >"$directory/isthmus.toml.new"
        chmod 644 "$directory/isthmus.toml.new"
        mv "$directory/isthmus.toml.new" "$directory/isthmus.toml"
    fi
    grep -E '^(api_key|pass_key|database_url|redis_url) = ' "$directory/isthmus.toml" | keep facade.toml
fi

if [ ! -e "$here/.env" ] && [ "$#" -eq 0 ]; then
    cp "$here/.env.example" "$here/.env"
    echo "made $here/.env"
fi

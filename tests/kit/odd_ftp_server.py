"""An FTP server that answers PASV and EPSV in the words that it is given: as servers do that no test's machine has.

    python odd_ftp_server.py PORT TEXT WORDS

WORDS is JSON: command -> the pieces of its reply, each sent by itself; `{numbers}`, `{spaced}`, `{numbers_of_port}` and `{port}`
stand for where it waits.  A command without words is refused.  Every file holds TEXT.
"""
from __future__ import annotations

import json
import socket
import sys

ANSWERS = {"USER": "331 password?", "PASS": "230 welcome", "PWD": '257 "/"', "CWD": "250 there", "TYPE": "200 ok", "QUIT": "221 bye",
           "FEAT": "211-Features:\r\n EPSV\r\n211 End"}


def main(port: str, text: str, words: str) -> None:
    with socket.create_server(("", int(port))) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                serve(connection, text.encode(), json.loads(words))


def serve(connection: socket.socket, text: bytes, words: dict[str, list[str]]) -> None:
    """One client after the other; what it does not wait for is not served."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    here = connection.getsockname()[0]

    def say(line: str) -> None:
        connection.sendall(f"{line}\r\n".encode())

    say("220 ready")
    waiting = None
    for line in connection.makefile("r", newline="\r\n", encoding="latin-1"):
        command = line.split()[0].upper()
        if command in words:
            waiting = socket.create_server((here, 0))
            waiting.settimeout(5)
            port = waiting.getsockname()[1]
            place = [*here.split("."), str(port >> 8), str(port & 255)]
            written = {"numbers": ",".join(place), "spaced": ", ".join(place), "numbers_of_port": ",".join(place[4:]), "port": port}
            for piece in words[command]:
                connection.sendall(piece.format(**written).encode())
        elif command == "SIZE":
            say(f"213 {len(text)}")
        elif command == "RETR" and waiting:
            say("150 here it comes")
            try:
                with waiting, waiting.accept()[0] as data:
                    data.sendall(text)
                say("226 sent")
            except TimeoutError:
                say("425 nobody came")
        else:
            say(ANSWERS.get(command, "500 what?"))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Reads, keeps and delivers what Samsung's Wi-Fi cameras upload.

`read(body, content_type)` makes an Upload of the body of an e-mail upload;
`nxparse.multipart` has `parse` and `repair` for the multipart beneath it. The
rooms of this package, from the wire up; each uses only what stands above it:

    deviation   names for what the cameras do that no RFC allows
    multipart   the scanner: parts of a body as spans; parse and repair
    markup      XML, or almost
    message     the XML of an e-mail upload
    address     e-mail addresses that can be delivered to
    filename    safe names for files
    jpeg        what a photo tells of itself: size, camera, time
    reply       HTTP replies that a camera can digest
    social      the XML of the social gateway, and its replies
    hotspot     what each hotspot check wants to hear
    transport   what mitmproxy lacks on the socket
    network     the addresses of this machine
    upload      Upload and File
    service     method, host and path: who answers (the map of the protocol)
    seen        a request as it was seen, in a flow or a file
    advice      what the user has to do so that a camera finds the proxy
    disk        the file operations that durability rests on
    database    a SQLite file that survives a power cut
    spool       durable uploads: bodies on disk, state in SQLite
    sessions    who has logged in to a social site, and what was announced
    deliver     one module for each way out; routes: which one it is
    report      an upload told to a person, in a line
    page        the page behind http://www.samsungimaging.com/
    show        a request shown to a person, with all that is in it
    pseudonyms  stand-ins for what is private
    redact      headers and texts with these stand-ins
    shareable   a report of what was seen, with nothing private in it
    strangers   what else a camera asks for
    config      the options, checked once
    outbox      what is still to be delivered, and when again
    targets     from the text of a target to what delivers to it
    gateway     what is asked of the social gateway
    receive     an upload on its way in
    rehearse    plays the camera
    __main__    the command line

Wire formats do no IO, and nothing here imports mitmproxy.
"""

from nxparse.upload import File, Upload, read

__all__ = ["File", "Upload", "read"]

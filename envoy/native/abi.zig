//! What this module uses of Envoy's ABI for dynamic modules, version 0.2:
//! https://github.com/envoyproxy/envoy/blob/v1.40.0/source/extensions/dynamic_modules/abi/abi.h
//! Bytes that Envoy lends stay as they are until the event ends or the same thing is changed.
const std = @import("std");

pub const version = "v0.2.0";

/// Envoy's side of one HTTP stream.
pub const Stream = *anyopaque;

pub const Bytes = extern struct {
    ptr: ?[*]const u8 = null,
    length: usize = 0,

    pub fn of(bytes: []const u8) Bytes {
        return .{ .ptr = bytes.ptr, .length = bytes.len };
    }

    pub fn text(self: Bytes) []const u8 {
        return if (self.ptr) |ptr| ptr[0..self.length] else "";
    }
};

pub const Headers = enum(c_int) { request = 0, response = 2 };
pub const Body = enum(c_int) { received_request, buffered_request, received_response, buffered_response };
pub const Metadata = enum(c_int) { dynamic, route };
/// What hooks answer: go on, or wait (headers: for the body; a body: with what has come, in Envoy's buffer).
pub const proceed: c_int = 0;
pub const hold_headers: c_int = 1;
pub const hold_body: c_int = 1;

extern fn envoy_dynamic_module_callback_http_get_header(Stream, Headers, Bytes, *Bytes, usize, ?*usize) bool;
extern fn envoy_dynamic_module_callback_http_set_header(Stream, Headers, Bytes, Bytes) bool;
extern fn envoy_dynamic_module_callback_http_get_body_chunks_size(Stream, Body) usize;
extern fn envoy_dynamic_module_callback_http_get_body_chunks(Stream, Body, [*]Bytes) bool;
extern fn envoy_dynamic_module_callback_http_get_body_size(Stream, Body) usize;
extern fn envoy_dynamic_module_callback_http_append_body(Stream, Body, Bytes) bool;
extern fn envoy_dynamic_module_callback_http_drain_body(Stream, Body, usize) bool;
extern fn envoy_dynamic_module_callback_http_received_buffered_request_body(Stream) bool;
extern fn envoy_dynamic_module_callback_http_get_metadata_string(Stream, Metadata, Bytes, Bytes, *Bytes) bool;
extern fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(Stream, Bytes, Bytes, Bytes) void;
extern fn envoy_dynamic_module_callback_http_set_dynamic_metadata_number(Stream, Bytes, Bytes, f64) void;
extern fn envoy_dynamic_module_callback_http_clear_route_cache(Stream) void;
extern fn envoy_dynamic_module_callback_http_filter_reset_stream(Stream, c_int, Bytes) void;
extern fn envoy_dynamic_module_callback_http_set_buffer_limit(Stream, u64) void;
extern fn envoy_dynamic_module_callback_get_most_specific_route_config(Stream) ?*const anyopaque;

/// The first value of a header, or "".
pub fn header(stream: Stream, which: Headers, name: []const u8) []const u8 {
    var found: Bytes = .{};
    _ = envoy_dynamic_module_callback_http_get_header(stream, which, Bytes.of(name), &found, 0, null);
    return found.text();
}

pub fn setHeader(stream: Stream, which: Headers, name: []const u8, value: []const u8) void {
    _ = envoy_dynamic_module_callback_http_set_header(stream, which, Bytes.of(name), Bytes.of(value));
}

pub fn setCount(stream: Stream, name: []const u8, count: u64) !void {
    var digits: [20]u8 = undefined;
    setHeader(stream, .request, name, try std.fmt.bufPrint(&digits, "{d}", .{count}));
}

pub fn removeHeader(stream: Stream, which: Headers, name: []const u8) void {
    _ = envoy_dynamic_module_callback_http_set_header(stream, which, Bytes.of(name), .{});
}

/// A body as one text: lent by Envoy where it lies in one piece, else copied into `copy`.
pub fn body(stream: Stream, parts: []const Body, memory: std.mem.Allocator, copy: *std.ArrayList(u8)) ![]const u8 {
    var pieces: [16]Bytes = undefined;
    var only: []const u8 = "";
    for (parts) |part| {
        const count = envoy_dynamic_module_callback_http_get_body_chunks_size(stream, part);
        if (count == 0) continue;
        const many: ?[]Bytes = if (count > pieces.len) try memory.alloc(Bytes, count) else null;
        defer if (many) |allocated| memory.free(allocated);
        const lent = many orelse pieces[0..count];
        if (!envoy_dynamic_module_callback_http_get_body_chunks(stream, part, lent.ptr)) continue;
        for (lent) |piece| {
            if (piece.length == 0) continue;
            if (only.len == 0 and copy.items.len == 0) {
                only = piece.text();
                continue;
            }
            if (copy.items.len == 0) try copy.appendSlice(memory, only);
            try copy.appendSlice(memory, piece.text());
        }
    }
    return if (copy.items.len > 0) copy.items else only;
}

/// Puts a text in the place of what Envoy holds of a body.
pub fn replaceBody(stream: Stream, parts: []const Body, text: []const u8) void {
    for (parts) |part| _ = envoy_dynamic_module_callback_http_drain_body(stream, part, std.math.maxInt(usize));
    appendBody(stream, parts[parts.len - 1], text);
}

pub fn appendBody(stream: Stream, part: Body, text: []const u8) void {
    if (text.len > 0) _ = envoy_dynamic_module_callback_http_append_body(stream, part, Bytes.of(text));
}

/// Takes away the first bytes of a body.
pub fn dropFirst(stream: Stream, part: Body, count: usize) void {
    _ = envoy_dynamic_module_callback_http_drain_body(stream, part, count);
}

pub fn isEmpty(stream: Stream, part: Body) bool {
    return envoy_dynamic_module_callback_http_get_body_size(stream, part) == 0;
}

/// How many bytes of a body Envoy may hold for filters.
pub fn setBufferLimit(stream: Stream, bytes: u64) void {
    envoy_dynamic_module_callback_http_set_buffer_limit(stream, bytes);
}

/// Ends the stream at once, answered or not. The filter is gone when this returns.
pub fn endStream(stream: Stream, why: []const u8) void {
    const local_reset = 0;
    envoy_dynamic_module_callback_http_filter_reset_stream(stream, local_reset, Bytes.of(why));
}

/// The parts that make up a request's body when its last bytes arrive.
pub fn wholeRequest(stream: Stream) []const Body {
    // An earlier filter may have held the body: then what arrives is what is buffered.
    if (envoy_dynamic_module_callback_http_received_buffered_request_body(stream)) return &.{.received_request};
    return &.{ .buffered_request, .received_request };
}

/// Has the route picked again. Whoever asks for a route's metadata before the router does must have it picked first.
pub fn pickRoute(stream: Stream) void {
    envoy_dynamic_module_callback_http_clear_route_cache(stream);
    _ = envoy_dynamic_module_callback_get_most_specific_route_config(stream);
}

pub fn routeMetadata(stream: Stream, namespace: []const u8, key: []const u8) ?[]const u8 {
    var found: Bytes = .{};
    const has = envoy_dynamic_module_callback_http_get_metadata_string;
    return if (has(stream, .route, Bytes.of(namespace), Bytes.of(key), &found)) found.text() else null;
}

pub fn note(stream: Stream, namespace: []const u8, key: []const u8, value: []const u8) void {
    const set = envoy_dynamic_module_callback_http_set_dynamic_metadata_string;
    set(stream, Bytes.of(namespace), Bytes.of(key), Bytes.of(value));
}

pub fn noteNumber(stream: Stream, namespace: []const u8, key: []const u8, value: u64) void {
    const set = envoy_dynamic_module_callback_http_set_dynamic_metadata_number;
    set(stream, Bytes.of(namespace), Bytes.of(key), @floatFromInt(value));
}

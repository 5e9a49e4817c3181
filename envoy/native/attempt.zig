//! The filter of a provider's cluster, once per attempt: gives the request the path and the model's name that this
//! provider expects, leaving every other byte of the body as it was.
const std = @import("std");
const abi = @import("abi.zig");
const requests = @import("request.zig");

const memory = std.heap.c_allocator;

/// Request headers are shared by all attempts, so the client's path is kept where every attempt finds it.
const path_header = "x-headgate-path";
/// What begins the paths of clients: providers have their own.
const version_prefix = "/v1";

/// The configuration's two lines: the cluster that this is, and the provider's base path.
pub const Config = struct {
    cluster: []const u8,
    base_path: []const u8,

    /// Null for a text of one line.
    pub fn read(text: []const u8) ?Config {
        const end = std.mem.indexOfScalar(u8, text, '\n') orelse return null;
        const copy = memory.dupe(u8, text) catch return null;
        return .{ .cluster = copy[0..end], .base_path = copy[end + 1 ..] };
    }

    pub fn free(self: Config) void {
        memory.free(self.cluster.ptr[0 .. self.cluster.len + 1 + self.base_path.len]);
    }
};

pub const Filter = struct {
    stream: abi.Stream,
    config: *const Config,

    pub fn onHeaders(self: *Filter) !void {
        var path = abi.header(self.stream, .request, path_header);
        if (path.len == 0) {
            abi.setHeader(self.stream, .request, path_header, abi.header(self.stream, .request, ":path"));
            path = abi.header(self.stream, .request, path_header);
        }
        const own = try std.mem.concat(memory, u8, &.{ self.config.base_path, path[@min(path.len, version_prefix.len)..] });
        defer memory.free(own);
        abi.setHeader(self.stream, .request, ":path", own);
    }

    pub fn wantsBody(self: *Filter) bool {
        return self.modelName() != null;
    }

    pub fn onRequest(self: *Filter, parts: []const abi.Body) !void {
        const name = self.modelName() orelse return;
        var copy: std.ArrayList(u8) = .empty;
        defer copy.deinit(memory);
        const body = try abi.body(self.stream, parts, memory, &copy);
        var length = body.len;
        const content_type = abi.header(self.stream, .request, "content-type");
        // "": as the client wrote it.
        if (name.len > 0) if (requests.read(body, content_type)) |asked| {
            const changed = try requests.changed(memory, body, .{ .span = asked.name, .text = name }, null);
            defer memory.free(changed);
            abi.replaceBody(self.stream, parts, changed);
            length = changed.len;
        };
        // Another attempt may have left the length of its own body.
        try abi.setCount(self.stream, "content-length", length);
    }

    fn modelName(self: *Filter) ?[]const u8 {
        return abi.routeMetadata(self.stream, "attempt", self.config.cluster);
    }
};

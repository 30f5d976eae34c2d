// `minke watch`: runs as they go, in a browser, and those that begin meanwhile in a folder of runs.
// One page and one answer for each run's data, over HTTP; nothing is written, and nothing but the
// runs' logs is read.
//
// Whatever a request is, the server goes on: each has an end in bytes and in time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/file.h"

namespace minke::study {

struct WatchOptions {
  std::vector<fs::path> runs;  // or folders with runs in them
  std::string host = "127.0.0.1";
  int port = 8090;  // 0: any that is free
};

// Serves until the process ends; `ready` is told the address, and how many runs there are, once
// there is somebody to answer. Error: a folder that holds no run, an address that cannot be
// listened on.
void watch(const WatchOptions& options,
           const std::function<void(const std::string& url, size_t runs)>& ready);

}  // namespace minke::study

// A pipeline inside a server with several threads:   vcut_server BUNDLE PHOTO...
// Two workers take photographs from a queue and share one pipeline. An interrupt (Ctrl-C) cancels what runs, lets the
// workers end, and only then destroys the pipeline.
#include <atomic>
#include <chrono>
#include <csignal>
#include <deque>
#include <iostream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "vcut.hpp"

namespace {

volatile std::sig_atomic_t interrupted = 0;

// Photographs that wait. An empty answer ends a worker.
class Queue {
 public:
  explicit Queue(std::deque<std::string> photos) : photos_(std::move(photos)) {}

  std::optional<std::string> take() {
    const std::lock_guard<std::mutex> guard(lock_);
    if (photos_.empty()) return std::nullopt;
    std::string photo = std::move(photos_.front());
    photos_.pop_front();
    return photo;
  }

 private:
  std::mutex lock_;
  std::deque<std::string> photos_;
};

class Log {
 public:
  void say(const std::string& line) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::cout << line << std::endl;
  }

 private:
  std::mutex lock_;
};

void work(vcut::Pipeline& pipeline, Queue& queue, const vcut::Cancel& cancel, Log& log) {
  while (const auto photo = queue.take()) {
    vcut::RunOptions options;
    options.fit = "crop";
    options.cancel = &cancel;
    try {
      const vcut::Video video = pipeline.run(vcut::Image::file(*photo), options);
      log.say(*photo + ": " + std::to_string(video.frame_count()) + " frames, seed " + std::to_string(*video.seed()));
    } catch (const vcut::Error& error) {
      log.say(*photo + ": " + error.what());
      if (error.code() == VCUT_CANCELLED) return;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: " << argv[0] << " BUNDLE PHOTO...\n";
    return 2;
  }
  std::signal(SIGINT, [](int) { interrupted = 1; });
  try {
    auto pipeline = vcut::Pipeline::load(argv[1]);
    Queue queue(std::deque<std::string>(argv + 2, argv + argc));
    vcut::Cancel cancel;
    Log log;
    std::atomic<int> at_work{2};
    std::vector<std::thread> workers;
    for (int i = 0; i < 2; ++i) {
      workers.emplace_back([&] {
        work(pipeline, queue, cancel, log);
        --at_work;
      });
    }
    while (at_work > 0) {
      if (interrupted != 0) cancel.request();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    for (auto& worker : workers) worker.join();
    return 0;
  } catch (const vcut::Error& error) {
    std::cerr << error.what() << '\n';
    return error.code() == VCUT_USAGE ? 2 : 1;
  }
}

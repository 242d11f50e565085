// Turns a photograph into a video through a pipe to ffmpeg:   vcut_ffmpeg BUNDLE PHOTO VIDEO.mp4
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "vcut.hpp"

namespace {

// ffmpeg with raw frames as its standard input. No shell takes part.
class Encoder {
 public:
  Encoder(const std::string& path, int width, int height, double fps) {
    int ends[2];
    if (pipe(ends) != 0) throw std::runtime_error("no pipe can be made: close other programs");
    child_ = fork();
    if (child_ < 0) throw std::runtime_error("no process can be made: close other programs");
    if (child_ == 0) {
      dup2(ends[0], STDIN_FILENO);
      close(ends[0]);
      close(ends[1]);
      const std::string size = std::to_string(width) + "x" + std::to_string(height);
      char rate[32];
      std::snprintf(rate, sizeof rate, "%.15g", fps);
      execlp("ffmpeg", "ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size.c_str(),
             "-r", rate, "-i", "-", "-pix_fmt", "yuv420p", "-crf", "17", path.c_str(),
             static_cast<char*>(nullptr));
      std::perror("ffmpeg");
      _exit(127);
    }
    close(ends[0]);
    input_ = ends[1];
  }
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  ~Encoder() {
    if (input_ >= 0) close(input_);
    if (child_ > 0) waitpid(child_, nullptr, 0);
  }

  void write(const uint8_t* data, size_t bytes) {
    while (bytes > 0) {
      const ssize_t count = ::write(input_, data, bytes);
      if (count < 0) throw std::runtime_error("ffmpeg took no frames: is it installed?");
      data += count;
      bytes -= static_cast<size_t>(count);
    }
  }

  void finish() {
    close(input_);
    input_ = -1;
    int status = 0;
    waitpid(child_, &status, 0);
    child_ = -1;
    if (status != 0) throw std::runtime_error("ffmpeg failed: see its message");
  }

 private:
  pid_t child_ = -1;
  int input_ = -1;
};

void run(const std::string& bundle, const std::string& photo, const std::string& path) {
  auto pipeline = vcut::Pipeline::load(bundle);
  vcut::RunOptions options;
  options.fit = "crop";
  options.seed = 0;
  options.on_progress = [](const char* stage, int done, int total) {
    std::cerr << '\r' << stage << ' ' << done << '/' << total << (done == total ? "\n" : "");
    return true;
  };
  const vcut::Video video = pipeline.run(vcut::Image::file(photo), options);
  Encoder encoder(path, video.width(), video.height(), video.fps());
  for (int i = 0; i < video.frame_count(); ++i) {
    encoder.write(video.frame(i), static_cast<size_t>(video.height()) * static_cast<size_t>(video.width()) * 3);
  }
  encoder.finish();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: " << argv[0] << " BUNDLE PHOTO VIDEO.mp4\n";
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);  // writing then says what is wrong
  try {
    run(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const vcut::Error& error) {
    std::cerr << error.what() << '\n';
    return error.code() == VCUT_USAGE ? 2 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}

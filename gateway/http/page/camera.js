/** Photos of the camera. */

import { byId, showText } from "./dom.js";
import { addTo } from "./media_input.js";

/** Connects the camera's buttons. */
export function startCamera(images) {
  const [section, view, opener, shutter] = ["camera", "camera-view", "camera-open", "camera-take"].map(byId);
  let stream = null;

  const close = () => {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    view.srcObject = null;
    section.hidden = true;
    opener.focus();
  };

  opener.addEventListener("click", async () => {
    if (stream) return;
    try {
      if (!navigator.mediaDevices) throw new Error("not a secure context");
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      showText(byId("media-error"), reason(error));
      return;
    }
    showText(byId("media-error"), "");
    shutter.disabled = true; // until there is a frame
    view.srcObject = stream;
    section.hidden = false;
    view.play().catch(() => {}); // interrupted if the camera is closed at once
  });
  view.addEventListener("loadeddata", () => {
    shutter.disabled = false;
    shutter.focus();
  });
  byId("camera-close").addEventListener("click", close);
  shutter.addEventListener("click", async () => {
    const frame = document.createElement("canvas");
    [frame.width, frame.height] = [view.videoWidth, view.videoHeight];
    frame.getContext("2d").drawImage(view, 0, 0);
    const data = await new Promise((resolve) => frame.toBlob(resolve, "image/jpeg", 0.92));
    close();
    await addTo(images, [new File([data], "camera.jpg", { type: "image/jpeg" })]);
  });
}

function reason(error) {
  if (error.name === "NotAllowedError") return "The browser does not let this page use the camera.";
  if (error.name === "NotFoundError") return "There is no camera.";
  return "The camera cannot be used. Browsers give it to pages over https and on this machine only.";
}

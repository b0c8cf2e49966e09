// Drawing with the mouse, a pen or a finger, as with a pen on paper.
const WIDTH = 18;  // of the pen, in pixels of the canvas

// `begun` is called when a stroke begins, `ended` when one has ended.
export function drawOn(canvas, begun, ended) {
  const pen = canvas.getContext("2d");
  const at = ({clientX, clientY}) => {
    const box = canvas.getBoundingClientRect();
    return [(clientX - box.left) * canvas.width / box.width, (clientY - box.top) * canvas.height / box.height];
  };
  let last = null;  // the end of the stroke that is being drawn
  const lineTo = point => {
    Object.assign(pen, {lineWidth: WIDTH, lineCap: "round", strokeStyle: "#111"});
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...point);
    pen.stroke();
    last = point;
  };
  canvas.onpointerdown = event => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
    lineTo(last);
    begun();
  };
  canvas.onpointermove = event => {
    if (!last) return;
    const points = event.getCoalescedEvents?.() ?? [];  // all since the last frame
    for (const one of points.length ? points : [event]) lineTo(at(one));
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (last) ended();
    last = null;
  };
}

export function wipe(canvas) {
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
}
